"""`devstral-fix eval`: instances in SWE-bench's form, solved, scored in the sandbox, reported and compared."""
