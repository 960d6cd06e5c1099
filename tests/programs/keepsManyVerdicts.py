import sys

from muninn.devices.topology import Kept, Verdict

_, path, name, count = sys.argv
for number in range(int(count)):
    Kept(path, "driver 1").put(name, str(number), Verdict(True))
