"""The switch ``compat`` between the method as it was released and the method with its faults corrected.

``official`` gives the same numbers as the released code; ``fixed`` differs in these steps:

====================  =============================================  ========================================
step                  official                                       fixed
====================  =============================================  ========================================
support prototypes    mask sampled on the latent grid (bilinear)     mask pooled by area: small masks count
query prototype       mean where p(fg) > 0.7, else of the top k      mean weighted by a softmax over pixels
condition features    224 px crop, mask not cropped                  the whole image, mask on the same grid
condition mask        bilinear on 16 x 16, > 0.5; may be empty       pooled by area; small masks fall back
threshold             a quarter of the maximum of all slices given   one half, each slice alone
components            largest one of each slice (8-connected)        all that are large in 3-D
====================  =============================================  ========================================
"""

from __future__ import annotations

from typing import Literal

Compat = Literal["official", "fixed"]
