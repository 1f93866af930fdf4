"""Plans where people serve: a file or folder for each host, which is imported only when it is used."""
