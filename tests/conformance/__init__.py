"""One suite for every back-end of the device port.

`platforms` lists what it runs on, `peer` is the other process that it talks to,
`test_deviceMemory` and `test_deviceStreams` are the rules. A new back-end adds a
platform, and no test.
"""
