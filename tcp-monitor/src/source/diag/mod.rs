//! The sockets that are there now, from the kernel (sock_diag(7)).
