"""What a report is made from, read and checked once; the rest of the room trusts it."""
