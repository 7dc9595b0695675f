"""The chat forms of the two families, as Jinja templates over Hugging Face messages with image and text parts."""

from __future__ import annotations

GEMMA3 = """\
{{ bos_token }}\
{%- if messages[0]['role'] == 'system' -%}\
{%- if messages[0]['content'] is string -%}\
{%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}\
{%- else -%}\
{%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}\
{%- endif -%}\
{%- set loop_messages = messages[1:] -%}\
{%- else -%}\
{%- set first_user_prefix = '' -%}\
{%- set loop_messages = messages -%}\
{%- endif -%}\
{%- for message in loop_messages -%}\
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}\
{{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else '') }}\
{%- if message['content'] is string -%}\
{{ message['content'] | trim }}\
{%- else -%}\
{%- for part in message['content'] -%}\
{%- if part['type'] == 'image' -%}{{ '<start_of_image>' }}\
{%- elif part['type'] == 'text' -%}{{ part['text'] | trim }}\
{%- endif -%}\
{%- endfor -%}\
{%- endif -%}\
{{ '<end_of_turn>\\n' }}\
{%- endfor -%}\
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}\
"""

QWEN2_5_VL = """\
{%- for message in messages -%}\
{%- if loop.first and message['role'] != 'system' -%}\
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}\
{%- endif -%}\
{{ '<|im_start|>' + message['role'] + '\\n' }}\
{%- if message['content'] is string -%}\
{{ message['content'] }}\
{%- else -%}\
{%- for part in message['content'] -%}\
{%- if part['type'] == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}\
{%- elif part['type'] == 'text' -%}{{ part['text'] }}\
{%- endif -%}\
{%- endfor -%}\
{%- endif -%}\
{{ '<|im_end|>\\n' }}\
{%- endfor -%}\
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}\
"""

CHAT_TEMPLATES = {"tiny_gemma3": GEMMA3, "tiny_qwen2_5_vl": QWEN2_5_VL}
