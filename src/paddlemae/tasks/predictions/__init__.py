"""What `paddlemae predict` writes: a table, sorted images, a contact sheet."""
