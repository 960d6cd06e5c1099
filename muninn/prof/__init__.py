"""`muninn.prof`: Muninn measured on this machine, beside this machine's own limits."""
