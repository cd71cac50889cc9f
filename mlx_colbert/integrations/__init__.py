"""This package behind the interfaces of other programs, a file for each. Nothing else imports them."""
