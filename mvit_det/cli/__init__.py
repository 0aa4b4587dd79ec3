"""The console command `mvit-det`: a module per command, and `main`, which starts them."""
