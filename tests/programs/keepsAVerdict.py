from muninn.devices.host.device import HostDevice
from muninn.devices.topology import Verdict, keptFor

kept = keptFor(HostDevice(2, 1 << 20), "")
kept.put("a", "b", Verdict(True))
