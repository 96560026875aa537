"""The books of the text, and what kind of text each one is."""

from collections.abc import Mapping

BOOKS: Mapping[str, tuple[str, ...]] = {
    "law": ("Ge", "Exo", "Lev", "Num", "Deu"),
    "history": (*("Josh", "Jdgs", "Ruth", "1Sm", "2Sm", "1Ki", "2Ki", "1Chr", "2Chr", "Ezra", "Neh", "Est"),),
    "poetry": ("Job", "Psa", "Prv", "Eccl", "SSol"),
    "prophets": (
        *("Isa", "Jer", "Lam", "Eze", "Dan", "Hos", "Joel", "Amos", "Obad", "Jonah", "Mic", "Nahum"),
        *("Hab", "Zep", "Hag", "Zec", "Mal"),
    ),
    "gospels": ("Mat", "Mark", "Luke", "John", "Acts"),
    "letters": (
        *("Rom", "1Cor", "2Cor", "Gal", "Eph", "Phi", "Col", "1Th", "2Th", "1Tim", "2Tim", "Titus", "Phmn"),
        *("Heb", "Jas", "1Pet", "2Pet", "1Jn", "2Jn", "3Jn", "Jude", "Rev"),
    ),
}
"""By kind, the books as the carrier of the text abbreviates them."""

KINDS = tuple(BOOKS)

KIND_OF: Mapping[str, int] = {book: number for number, books in enumerate(BOOKS.values()) for book in books}
"""The number of a book's kind."""
