"""Chaos: random kills, pauses and full disks under concurrent posts, then a checker over the history."""
