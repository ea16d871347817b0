"""The text on which the loss of few bits is measured: plain prose of this project, so no model has read it.

About 640 tokens of a vocabulary of 49,152.
"""

TEXT = """
The ferry to the island leaves at seven in the morning, and on most days of the year nobody but the
postman takes it. He carries two bags. In one of them are letters and newspapers, in the other one he has
bread, because the baker of the island retired four years ago and nobody has come to take his place. The
crossing takes forty minutes when the sea is calm. When it is not, the captain waits behind the long wall
of the harbour until the wind has turned, and the people on the island eat what was left from yesterday.

There are about ninety houses, a school with eleven children, and a lighthouse that no longer needs a
keeper. Its lamp is switched on by a small computer, which measures how dark it is and sends a message to
the mainland if something is broken. The last keeper still lives next to it. She says that the machine is
more reliable than she ever was, but that it has never once noticed a boat in trouble.

Most of the island is rock and grass. Trees grow only in the valley, where the soil is deep enough and the
salt in the air does less harm. In spring thousands of birds arrive to lay their eggs on the cliffs on the
northern side. Scientists come to count them. They divide the cliff into squares, take a photograph of
each square from a boat, and later mark every nest by hand. The number changes from year to year, partly
because of the weather, and partly because the fish that the birds eat have moved to colder water.

Electricity came late. For a long time every family had its own generator, which was noisy and used a lot
of fuel. Then three wind turbines were built on the hill, together with a battery as large as a truck. If
the wind blows for a whole night, the battery is full in the morning and lasts for about two days. After
that, the old generators have to help. A plan to put a cable on the bottom of the sea was discussed twice
and given up twice, since it would have cost more than all the houses together are worth.

What the visitors ask first is whether it is lonely here in winter. The answer depends on whom they ask.
The teacher will tell them that she has never had so many friends. The man who repairs the boats will say
that he likes to be alone, and that this is the reason why he came. Children want to leave when they are
sixteen, and about half of them return before they are thirty, usually with somebody who did not grow up
on an island and has to be told, on the first stormy evening, that the noise on the roof is only the wind.

In the small museum beside the church there is a book in which every ship is written down that was lost
near the coast. The first entry is from 1741 and says only that a vessel with a cargo of salt went down
and that all six sailors were saved. The last one is from 1988. Since then nothing has been added, and the
woman who looks after the book hopes that she will never have to look for a pen.
"""


def paragraphs() -> str:
    """The text with one line a paragraph."""
    return "\n\n".join(" ".join(part.split()) for part in TEXT.strip().split("\n\n"))
