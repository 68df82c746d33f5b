"""The wire: frames, padding, addresses and the session as a state machine. No I/O, no threads, no clock."""
