"""Complete tasks from names to files, shared by the command line and the recipes. Nothing here prints."""
