"""The workbench: a local server with a page, projects on disk, and a queue of work.

:func:`latentseg.serve.app.create_app` makes the server, :class:`latentseg.serve.client.Client` talks to it.
Nothing here is imported by `import latentseg`; FastAPI comes with the extra ``[serve]``.
"""
