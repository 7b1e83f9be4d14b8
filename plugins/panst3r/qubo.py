"""Choosing masks that cover much and share little: a quadratic binary problem (baselines.md section 4.5). NumPy, float64.

Energy of a choice x in {0, 1}^M: x^T W x + REGULARISER * mean(x). With the W of `selection.overlap_weights` a mask pays
where its area is larger than twice what it shares with the others that are chosen.
"""

from __future__ import annotations

import numpy as np

REGULARISER = 1e-3
HOTTEST, COLDEST = 0.5, 1e-4                   # temperatures of the annealing, which falls geometrically


def energies(weights: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Return the energy (n,) of `states` (n, M) of 0 and 1 under `weights` (M, M)."""
    states = np.asarray(states, dtype=np.float64)
    if states.shape[1] == 0:
        return np.zeros(len(states))
    return ((states @ weights) * states).sum(axis=1) + REGULARISER * states.mean(axis=1)


def choose(weights: np.ndarray, seed: int = 0, steps: int = 10_000, restarts: int = 20, exhaustive: int = 12) -> np.ndarray:
    """Return a choice (M,) bool of low energy: the best of all for up to `exhaustive` masks.

    For more, the best of simulated annealing and of a greedy choice, each followed by single changes while these help: never
    worse than the greedy one. The same seed gives the same choice.

    Args:
        weights: (M, M), symmetric.
        seed: of the annealing.
        steps: single changes that a run of it tries.
        restarts: runs, from random choices.
        exhaustive: so many masks are tried in all combinations.

    Raises:
        ValueError: weights that are not symmetric or not finite.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 2 or not np.isfinite(weights).all() or not np.allclose(weights, weights.T):
        raise ValueError(f'weights must be a finite symmetric matrix (M, M), got shape {weights.shape}')
    count = len(weights)
    if count == 0:
        return np.zeros(0, dtype=bool)
    if count <= exhaustive:
        candidates = (np.arange(2 ** count)[:, None] >> np.arange(count)) & 1
    else:
        annealed = anneal(weights, np.random.default_rng(seed), steps, restarts)
        candidates = np.stack([descend(weights, state) for state in (greedy(weights), *annealed)])
    return candidates[energies(weights, candidates).argmin()].astype(bool)


def greedy(weights: np.ndarray) -> np.ndarray:
    """Return the choice (M,) bool that grows from none by the mask of `weights` (M, M) that helps most, while one does."""
    state = np.zeros(len(weights), dtype=bool)
    while not state.all():
        change = np.where(state, np.inf, _changes(weights, state))
        if change.min() >= 0:
            break
        state[change.argmin()] = True
    return state


def descend(weights: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Return `state` (M,) bool after single changes, the best first, until none lowers the energy under `weights` (M, M)."""
    state = np.array(state, dtype=bool)
    while (change := _changes(weights, state)).min() < -1e-15:
        best = change.argmin()
        state[best] = ~state[best]
    return state


def anneal(weights: np.ndarray, generator: np.random.Generator, steps: int, restarts: int) -> np.ndarray:
    """Return the best choice (restarts, M) bool that each run of simulated annealing saw, under `weights` (M, M).

    All runs go on together; the energy is updated by each change, not computed again.
    """
    count, runs = len(weights), np.arange(restarts)
    apart = weights - np.diag(np.diag(weights))
    state = generator.random((restarts, count)) < 0.5
    field = np.diag(weights) + REGULARISER / count + 2 * state.astype(np.float64) @ apart   # gain of switching each one on
    energy = energies(weights, state)
    best, lowest = state.copy(), energy.copy()
    for temperature in np.geomspace(HOTTEST, COLDEST, steps):
        place = generator.integers(count, size=restarts)
        sign = np.where(state[runs, place], -1.0, 1.0)
        change = sign * field[runs, place]                                      # (restarts,)
        taken = generator.random(restarts) < np.exp(np.minimum(-change / temperature, 0.0))
        if not taken.any():
            continue
        rows, where = runs[taken], place[taken]
        state[rows, where] = ~state[rows, where]
        field[rows] += 2 * sign[taken, None] * apart[where]
        energy[rows] += change[taken]
        better = rows[energy[rows] < lowest[rows]]
        best[better], lowest[better] = state[better], energy[better]
    return best


def _changes(weights: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Return by how much changing each of `state` (M,) changes the energy, (M,)."""
    own = np.diag(weights)
    field = own + REGULARISER / len(weights) + 2 * (weights @ state - own * state)
    return np.where(state, -field, field)
