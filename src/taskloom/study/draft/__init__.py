"""A first study file for data of one's own, written from what stands in them; `taskloom init`.

`find` says what the data are (`sources`, `image_files`, `recording_files`, `layouts`), `survey` looks at
every column (`columns`, `marks`, `roles`, `split_columns`), `kinds` chooses the tasks' kinds, `inputs` the
features and the split, `networks` encoder, training and cells; `write` and `yaml_text` make a file of it, and
`draft` reads the data by that file before it is handed out.
"""

from taskloom.study.draft.draft import Draft, draft_study
from taskloom.study.draft.find import find_source
from taskloom.study.draft.sources import Source
from taskloom.study.draft.survey import Survey, survey

__all__ = ["Draft", "Source", "Survey", "draft_study", "find_source", "survey"]
