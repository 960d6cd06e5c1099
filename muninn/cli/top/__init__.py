"""`python -m muninn top`: the live view of a domain.

`command` runs it. An onlooker of `service/` reads the domain; `rates` compares two
readings; `buffers` and `people` say what there is to list; `view` is what the user chose,
and `keys` changes it; `tables`, `panels` and `screen` lay all that out, as functions of
their arguments alone; `terminal` has the terminal, and gives it back as it was.
"""
