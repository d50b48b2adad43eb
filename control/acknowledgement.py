"""The data inconsistency acknowledgement in one wording: for the command line, the console's dialog and its API."""

ACKNOWLEDGEMENT = "Salesforce may then hold incomplete or inconsistent data; dealing with this is your responsibility."
"""What switching pause on export error off means."""
