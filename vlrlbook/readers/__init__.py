"""What a text says: which part of a completion is its answer, and the count, letter, side or words in it.

Rooms of this wing, each importing only those above it:

- `tokens`: the part that is an answer, one spelling for marks and digits, what a numeral is worth;
- `counts`: what each number of a text is (a count, a size, a date, …), and which count is meant;
- `choices`: the letter of a choice, yes and no;
- `words`: answers compared as words and lists, and what kind of truth a truth is.

Chapter 02 draws their tables and pays by them. Written by hand, with nothing but Python's own library and no
decorators, since chapter 09 cuts these functions out into reward files that run where this package is not."""
