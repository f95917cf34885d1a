"""Make correct X509-SVIDs: the development CA and the CA of the sandboxes."""
