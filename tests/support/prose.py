"""Plain English prose, a little over 400 tokens of it, on which models' logits are compared."""

PROSE = """\
The ferry left the mainland a little after six, when the harbour was still grey and the gulls had \
not yet begun to quarrel over the nets. There were eleven passengers on board, most of them \
farmers who had sold their lambs the day before and were going home with empty trailers. Anna sat \
near the bow with her grandfather's toolbox between her feet. She had promised her aunt that she \
would mend the old clock in the kitchen, which had stopped in the winter and which nobody else in \
the family dared to open.

It was not a difficult clock. Her grandfather had built it from parts of three others, and he had \
explained to her more than once how the weight pulls the chain, how the chain turns the wheel, \
and how the pendulum lets the wheel move one tooth at a time. A clock, he used to say, is only a \
way of making something heavy fall very slowly. When she was nine she had thought this was a \
joke. Now that she repaired instruments for a living, she thought it was the best description of \
her work that anyone had ever given.

The crossing took two hours. The wind came from the west, as it nearly always does in spring, \
and each time the boat met a wave a little water ran along the deck and out again through the \
holes in the side. A boy of about five counted the waves aloud until he reached forty, lost his \
place, and started again from one. His mother read a newspaper and did not look up. Somebody had \
brought a dog, which slept through everything.

When the island appeared it was first a dark line, then a row of low hills, and at last a white \
house with a red door, then another beside it. Anna could see her aunt's car at the end of the \
pier. She lifted the toolbox, felt how heavy it was, and smiled at the thought that she was about \
to carry it up a steep road in order to help something fall slowly. Then the engine changed its \
note, the ropes were thrown across, and the passengers stood up one after another to go ashore.
"""
