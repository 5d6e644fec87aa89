"""What of other packages has something of ours in its place, and how it is given back."""


class Replacements:
    """Attributes of classes and modules in whose place something of ours stands, until `restore`."""

    def __init__(self) -> None:
        self._entries: list[tuple[object, str, object, object]] = []
        self._ours: dict[int, object] = {}  # by identity: a wrap asks at each request

    def put(self, owner: object, name: str, ours: object) -> None:
        """Put something of ours in the place of what a class or module has itself."""
        self._entries.append((owner, name, owner.__dict__[name], ours))
        self._ours[id(ours)] = ours
        setattr(owner, name, ours)

    def has(self, owner: object, name: str) -> bool:
        """Return whether there is something of ours already."""
        return any(entry[:2] == (owner, name) for entry in self._entries)

    def holds(self, ours: object) -> bool:
        """Return whether it stands for something still: not where `restore` had to leave it in its place."""
        return id(ours) in self._ours

    def give_back(self, owner: object, name: str) -> None:
        """Give one thing back, unless someone else has wrapped ours in turn: then ours stays, and is still known."""
        for entry in self._entries:
            _, _, original, ours = entry
            if entry[:2] == (owner, name) and owner.__dict__.get(name) is ours:
                setattr(owner, name, original)
                self._entries.remove(entry)
                self._ours.pop(id(ours), None)
                return

    def restore(self) -> None:
        """Give everything back; a wrap that someone else has wrapped in turn stays, and has to find nothing to do."""
        for owner, name, original, ours in self._entries:
            if owner.__dict__.get(name) is ours:
                setattr(owner, name, original)
        self._entries.clear()
        self._ours.clear()
