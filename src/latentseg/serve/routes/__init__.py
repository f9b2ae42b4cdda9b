"""The addresses of the server, one file for each part of a project."""
