"""What measures of people have in common: right or wrong, and never beyond the context."""

from lab.observe.at_context import AtContextMeasure


class PeopleMeasure(AtContextMeasure):
    """Of its own rows the share that is wrong is compared, at the context C."""

    foretells = False  # a decoder that sees what comes after fills gaps in their place

    def reads_inside(self, context: int) -> bool:
        return True
