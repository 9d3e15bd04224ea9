"""Global minimisation of functions of many variables: what the action-functional method and its opponents share.

`base` says what a method is; a new one is one file and a line of the registry.
"""
