"""What Muninn counts. Everybody may count, and nothing here reads."""
