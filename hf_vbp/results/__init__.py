"""The types of ``vbp_results.json``, their checks and schema, and the redaction of private text."""
