"""Requests computed in advance: the changes of forgetting a class, in a compact form.

`changes.py` finds and applies the changes of a request, `classes.py` prepares and answers requests for single classes,
`sets.py` combines them for requests for several classes, and `files.py` stores them in a workdir.
"""
