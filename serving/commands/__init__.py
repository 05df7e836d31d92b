"""The command line's commands, one a file; ``serving.__main__`` puts them together.

What they need is imported when they run, so that ``serve`` starts as quickly as it can.
"""
