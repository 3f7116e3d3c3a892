"""Upload a picture and a prompt, get an mp4: `uvicorn fastapi_minimal:app`, with MODELSLAB_API_KEY.

Without an account: run `modelslab-async emulator`, and set MODELSLAB_BASE_URL=http://127.0.0.1:8787 and
MODELSLAB_API_KEY=any.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Form, HTTPException, UploadFile
from fastapi.responses import FileResponse

from modelslab_async import Budget, BudgetExceededError, Client, InvalidRequestError, ModelsLabError
from modelslab_async.web import lifespan
from modelslab_async.web.fastapi import ModelsLabClient

URL = os.environ.get("MODELSLAB_BASE_URL", "https://modelslab.com")
app = FastAPI(lifespan=lifespan(lambda: Client(base_url=URL, journal="jobs.db", budget=Budget(usd=5, per="day"))))


@app.post("/videos")
async def make(client: ModelsLabClient, prompt: Annotated[str, Form()], picture: UploadFile) -> FileResponse:
    """Make a video for $0.20. The response is sent when the video is ready; examples/studio shows progress."""
    try:
        job = client.submit(prompt=prompt, init_image=await picture.read(), num_frames=49)
        saved = await job.save(Path(tempfile.gettempdir()) / f"{job.ref}.mp4")
    except InvalidRequestError as error:
        raise HTTPException(422, str(error)) from error
    except BudgetExceededError as error:
        raise HTTPException(429, "today's budget is used up") from error
    except ModelsLabError as error:
        raise HTTPException(502, str(error)) from error
    return FileResponse(saved.path, media_type="video/mp4")
