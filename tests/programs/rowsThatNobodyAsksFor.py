from muninn.session.membership import current
from muninn.control import layout
from muninn.control.descriptions import RowDescription
from muninn.terms import Access, Lifetime, Mode

muninn.share(b"first", name="first")
member = current()
rows = member.rows
epoch = member.election.epoch()
while rows.count() < 131072:
    rows.grow(epoch)
for row in range(10, 131000):
    creating = rows.change(row, rows.state(row), epoch, layout.ROW_CREATING, incarnation=1)
    rows.describe(
        row,
        RowDescription(
            1,
            4096,
            0,
            0,
            0,
            0,
            Mode.BIG,
            Access.READ_WRITE,
            Lifetime.KEEP,
            0,
            -1,
            0,
            "segment",
            (1,),
            "|u1",
            "default",
            f"many-{row}",
        ),
    )
    rows.change(row, creating, epoch, layout.ROW_LIVE)
