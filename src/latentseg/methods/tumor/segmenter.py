"""Tumors by name in volumes: the scan is encoded once, and every prompt costs what is suspicious.

With a 2-D backbone a volume is a stack of slices; what ties them together is a smoothing of the evidence
across slices before anything is decided, and noise that is a function of (seed, case, slice). With a 3-D
backbone it is one block, suspicious or not as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from latentseg.errors import UsageError, caution
from latentseg.imaging import Volume
from latentseg.imaging.objects import kind_name
from latentseg.methods.base import Segmenter
from latentseg.methods.diffugts.refinement import Refined
from latentseg.methods.log_odds import probability
from latentseg.methods.tumor.appearance import with_edges
from latentseg.methods.tumor.beside_map import together
from latentseg.methods.tumor.blocks import in_tissue_window, memory_of, per_slice, seen_by, stacked
from latentseg.methods.tumor.evidence import Evidence, TumorSegmentation
from latentseg.methods.tumor.known import check_shown
from latentseg.methods.tumor.networks import PreparedScan, TumorNetworks
from latentseg.methods.tumor.options import RECOMMENDED, TumorOptions
from latentseg.methods.tumor.parts import FEWEST
from latentseg.methods.tumor.preparing import alone, prepared_scan
from latentseg.methods.tumor.pseudo_healthy import Refinement
from latentseg.methods.tumor.queries import warn_of_modality, warn_of_place
from latentseg.methods.tumor.slice_attention import Attention, SliceAttention
from latentseg.methods.tumor.suspicion import Suspicion, suspected_parts, suspected_slices
from latentseg.methods.tumor.within_organ import within, without_lesser

CUT = 0.5  # probability from which a voxel belongs to the tumor
SEVERAL = "brain metastasis"  # which are many as often as one


class TumorSegmenter(Segmenter[str, PreparedScan]):
    """DiffuGTS as a segmenter: ``prepare`` a scan once, ``predict`` each prompt, or simply call it.

    Targets are prompts such as "liver tumor".

    Args:
        networks: Of DiffuGTS, and beside it.
        options: See there.

    Raises:
        UsageError: The feature residual is to be projected, and the weights have no projector.

    Example:
        >>> load("tumor")(read("ct.nii.gz"), "liver tumor")["liver tumor"].presence
    """

    def __init__(self, networks: TumorNetworks, *, options: TumorOptions | None = None) -> None:
        self.networks = networks
        self.options: TumorOptions = options or RECOMMENDED
        refinement = self.options.refinement
        if refinement and refinement.feature == "projected" and networks.network.projector is None:
            fix = "take the preset paper_like, or weights that were trained with the paper's network"
            raise UsageError("these tumor weights have no projector of the feature residual", fix=fix)
        self.fingerprint = networks.fingerprint

    def listed(self, targets: Any) -> list[str]:
        """Prompts as a list; a lone one needs none.

        Raises:
            UsageError: Something that is no text.
        """
        several = not isinstance(targets, str) and isinstance(targets, Iterable)
        asked = list(targets) if several else [targets]
        odd = next((one for one in asked if not isinstance(one, str)), None)
        if odd is not None or targets is None:
            raise UsageError(
                f"{kind_name(odd)} is no prompt", fix="give a text such as 'liver tumor', or a list of texts"
            )
        return asked

    def check(self, target: str, scan: Volume | None = None) -> None:
        """Read a prompt, so that what cannot be read is said before the work.

        Raises:
            UsageError: A prompt that cannot be read, or a scan of a modality in which no training showed it.
        """
        query = self.networks.queries(target, scan.modality if scan else "unknown")
        if scan and not self.options.anyway:
            check_shown(query.prompt, scan, known=self.networks.known)

    def needs(self, scan: Volume) -> str:
        """The memory that a 3-D backbone takes; errors as of :meth:`prepare`."""
        return memory_of(self.networks, scan, self.options)

    def prepare(self, scan: Volume) -> PreparedScan:
        """Look at a scan, which is encoded by the first prompt that has to, once for any number of prompts.

        Raises:
            InputError: A constant scan, or one with values that are no numbers.
            GeometryError: Axial slices too narrow to be segmented.
            MemoryLimitError: A 3-D backbone, and a volume that would not fit; said before the work.
        """
        networks, seen = seen_by(self.networks, scan, self.options)
        return prepared_scan(networks, seen, self.options)

    @torch.no_grad()
    def predict(self, prepared: PreparedScan, target: str) -> TumorSegmentation:
        """Segment one prompt in a prepared scan.

        Raises:
            UsageError: As of :meth:`check`.
        """
        scan, options = prepared.scan, self.options
        self.check(target, scan)
        query = self.networks.queries(target, scan.modality)
        warn_of_modality(query, scan)
        warn_of_place(query)
        whole, prepared = prepared, alone(prepared, query, self.networks, options)
        networks = prepared.networks
        own_heads = prepared is not whole and query.region == "head"
        attention = Attention(networks, replace(options, mirrored=0.0) if own_heads else options)
        found = together(attention, prepared, attention.of_scan(prepared, query))
        judge, lungs = networks.judge, prepared.lungs
        found = found._replace(
            scores=found.scores * (lungs is not None or self._in_view(whole, found, networks))
        )
        if judge and lungs and len(found.scores) >= FEWEST:
            suspicion = suspected_parts(attention, prepared, found, judge=judge, lungs=lungs)
        else:
            suspicion = suspected_slices(attention, prepared, found)
        refined = Refinement(attention, prepared, suspicion.cut).of_scan(suspicion.slices)
        chance = stacked(refined.probability)
        if options.appearance:
            window_hu = getattr(networks.backbone, "window_hu", None)
            images = in_tissue_window(prepared.seen, window_hu)
            chance = with_edges(images, chance, options=options.appearance, cut=CUT)
        organ = prepared.found(query.prompt.organ)
        if organ is not None and organ.any():
            chance = within(chance, organ, own=options.own, cut=CUT)
        if own_heads and query.prompt.name != SEVERAL:
            chance = without_lesser(chance, share=options.lesser, cut=CUT)
        fine = np.asarray(prepared.seen.undo(chance)).clip(0, 1)
        restore, presence = prepared.seen.canonical.restore, float(suspicion.scores.max())
        if not (fine >= CUT).any():  # suspected, and nothing is left that could be marked
            presence = min(presence, options.min_presence)
        evidence = evidence_of(prepared, suspicion, refined)
        return TumorSegmentation(target, scan, restore(fine >= CUT), restore(fine), presence, evidence)

    def _in_view(self, prepared: PreparedScan, found: SliceAttention, networks: TumorNetworks) -> bool:
        """Whether the organ of a prompt may be in view.

        In a single slice a large tumor may stand where the organ was: there a network that sees the picture
        alone is believed, where it has a say for the prompt.

        Warns:
            LatentsegWarning: It is not, or is not seen.
        """
        where, query = str(prepared.scan.source or "the scan"), found.query
        shown = self.networks.network.views.missing(prepared.stages[-1].float(), query.region)
        if shown:
            caution(
                f"{where} looks like a scan of the {shown}, and the {query.prompt.organ} is in the "
                f"{query.region}: {query.prompt.text!r} is called absent"
            )
        elif (away := found.beside.away) is not None and bool((away == 1).all()):
            picture = networks.picture
            if len(found.scores) == 1 and picture and picture.offset_of(query):
                caution(f"{where} shows no {query.prompt.organ}: what is found may be of another organ")
                return True
            caution(f"{where} shows no {query.prompt.organ}: {query.prompt.text!r} is called absent")
            return False
        return not shown


def evidence_of(prepared: PreparedScan, suspicion: Suspicion, refined: Refined) -> Evidence:
    """The maps that a mask was made from; all slices of a suspicious block are refined.

    Parts that were not judged are as certain as the slices, or the block, they lie in.
    """
    seen, chance = prepared.seen, stacked(probability(suspicion.found.log_odds))
    scores, judged = suspicion.scores.numpy(), suspicion.certainty
    each, rows = per_slice(scores, chance, seen), np.isin(np.arange(len(scores)), suspicion.slices)
    by_item = np.broadcast_to(scores[:, None, None], chance.shape)
    return Evidence(
        seen=seen,
        attention=chance,
        healthy=stacked(refined.pseudo_healthy),
        residual=stacked(refined.residual),
        uncertainty=stacked(refined.uncertainty),
        scores=each,
        refined=np.repeat(rows, len(each)) if seen.block else rows,
        certainty=by_item if judged is None else judged,
    )
