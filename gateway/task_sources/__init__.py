"""Where a task's model comes from, other than a client's own spelling: files, uploads in parts, URLs, a folder.

Every one of them ends as files in a directory (`model_files`), so that no model is held in memory.
"""
