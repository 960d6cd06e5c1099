"""One suite for every back-end of the device port.

`platforms` lists the back-ends and environments, `peer` is the other process of a test,
and `test_deviceMemory` and `test_deviceStreams` are the rules. A new back-end adds a
platform, and no test.
"""
