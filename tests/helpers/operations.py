"""One request of each operation, as a page of the documentation or an official client sends it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from modelslab_async import OPERATIONS, Request
from modelslab_async.protocol import wire

PICTURE = "https://pub-3626123a908346a7a8be8d9295f44e26.r2.dev/livewire-tmp/a-metaNTliM2Vm==-.webp"
CLIP, SOUND = "https://files.invalid/a.mp4", "https://files.invalid/a.mp3"
_EXAMPLES: Mapping[str, str] = {
    "img2video_ultra": '{"key":"","init_image":"' + PICTURE + '","prompt":"moving character",'
    '"negative_prompt":"low quality","resolution":320,"num_frames":16,"num_inference_steps":31,"guidance_scale":7,'
    '"webhook": null,"track_id":null}',
    "text2video_ultra": '{"key":"","prompt":"Space Station in space","negative_prompt":"low quality",'
    '"model_id": "wan2.1","resolution":480,"num_frames":92,"num_inference_steps":8,"guidance_scale": 1.0,'
    '"shift_sample":3,"fps":18,"webhook": null,"track_id":null}',
    "text2video": '{"key":"","model_id":"cogvideox","prompt":"A majestic space station orbiting Earth, with the sun '
    'rising behind it, cinematic, 4K","negative_prompt":"low quality, blurry, static","height":512,"width":512,'
    '"num_frames":25,"num_inference_steps":20,"guidance_scale":7,"output_type":"mp4","webhook":null,"track_id":null}',
    "img2video": '{"key":"","model_id":"svd","init_image":"https://imagedelivery.net/PP4qZJxMlvGLHJQBm3ErNg/'
    'e2f9cb8e-cb87-4143-dd81-a9e77e3bb800/768","height":512,"width":512,"num_frames":25,"num_inference_steps":20,'
    '"min_guidance_scale":1,"max_guidance_scale":3,"motion_bucket_id":20,"noise_aug_strength":0.02,"webhook":null,'
    '"track_id":null}',
    # modelslab-py's schemas and ModelsLab's skill for video generation
    "image-to-video": '{"key":"","model_id":"kling-v2-1-i2v","prompt":"the camera moves in","duration":"5",'
    '"init_image":"' + PICTURE + '","webhook":null,"track_id":null}',
    "text-to-video": '{"key":"","model_id":"seedance-t2v","prompt":"a castle","aspect_ratio":"16:9",'
    '"resolution":"480p","extra":{"camera_fixed":true}}',
    "video-to-video": '{"key":"","model_id":"wan2.6-v2v","prompt":"as a drawing","init_video":["' + CLIP + '"]}',
    "lip-sync": '{"key":"","model_id":"lipsync-2","init_video":"' + CLIP + '","init_audio":"' + SOUND + '"}',
    "motion-control": '{"key":"","model_id":"kling-motion-control","prompt":"she dances","init_image":"'
    + PICTURE
    + '",'
    '"init_video":"' + CLIP + '","extra":{"character_orientation":"video"}}',
}
BEYOND: Mapping[str, set[str]] = {
    "img2video_ultra": {"num_inference_steps"},
    "text2video_ultra": {"fps", "model_id"},
}
"""The parameters whose values in the example go beyond the documentation's own limits."""
_LONGER: Mapping[str, Mapping[str, Any]] = {"img2video_ultra": {"num_frames": 81, "resolution": 480}}
"""Changes of examples whose job would be done before the submit is answered."""
NAMES = tuple(OPERATIONS)


def example(name: str) -> dict[str, Any]:
    """Return the parameters of the documentation's example."""
    params: dict[str, Any] = json.loads(_EXAMPLES[name])
    return params


def a_request_for(name: str, **changes: Any) -> Request:
    """Return a request for an operation: the example within the documented limits, with *changes*."""
    kept = {field: value for field, value in example(name).items() if field not in BEYOND.get(name, ())}
    return wire.request_from({"operation": name, **kept, **_LONGER.get(name, {}), **changes})
