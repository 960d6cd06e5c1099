"""HTTP for plans, and the live page: what `keep --http` serves.

Read `operations` first: the table of all operations. `schemas` are their bodies,
`handlers` do them, `held` is what stays in use for them, `failures` are errors as
answers, `guards` say who may ask, `openapi` describes the table, and `application` puts
it together. `serving` is the server.
"""
