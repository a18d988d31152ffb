//! `ringfort dev`: a local cluster, one process per node.
