"""The tool of the demo with a calculator. A conversation's process is forked with what this module imports: nothing."""


def calc(expression: str) -> str:
    """
    Adds whole numbers.

    Args:
        expression: The numbers with a plus sign between them, such as 583+749.
    """
    return str(sum(map(int, expression.split("+"))))
