"""Times on an accelerator: the search, train steps, whole runs, the papers' scale."""
