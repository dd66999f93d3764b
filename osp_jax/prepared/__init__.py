"""Requests that are computed before they come: what forgetting a class changes, kept in a compact form.

`changes.py` finds and applies the change of a request, `classes.py` prepares classes and answers requests for them,
`sets.py` answers a request for several classes from those of one, `files.py` keeps them in a workdir.
"""
