"""The programs here need torch and the reference libraries, so pytest must not import them."""

collect_ignore_glob = ["*.py"]
