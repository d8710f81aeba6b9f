"""How many threads are used."""

from fastvi.common import threads

try:
    print(threads.allowed())
except ValueError as error:
    print(error)
