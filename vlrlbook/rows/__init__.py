"""Rows of questions and of preferences, out of files as people have them.

Rooms of this wing, each importing only those above it:

- `files`: JSON, JSON Lines, CSV, TSV and parquet opened, each row with its number;
- `columns`: which column of a row holds what, by its name or by what a user said (`keys`);
- `pictures`: paths, bytes, base64, data URLs; where a picture is, and whether it opens;
- `chat`: the turns of a chat;
- `vqa`, `preferences`: one row read;
- `gate`: a whole file looked through, the one function that every door asks.

Chapter 01 shows each form and what becomes of it. Written by hand."""
