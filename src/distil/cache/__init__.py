"""Teacher outputs on disk: codecs, packed shards, a store looked up by sample, and a teacher that answers from it.

cache = TeacherCache.write(teacher, data, "classification", "cache", codec="dense16")
cache.check(teacher, data, get_task("classification"))
distiller = Distiller(student, CachedTeacher(cache), KD(), example=batch)
"""

from distil.cache.checking import Check
from distil.cache.codecs import CODECS, Codec, Dense8, Dense16, Dense32, Features16, Int8, Sampled, TopK, get_codec
from distil.cache.importing import import_topk
from distil.cache.keys import contents_of
from distil.cache.shards import Field, Meta, Shard, write_shard
from distil.cache.store import TeacherCache
from distil.cache.teacher import CachedTeacher
from distil.cache.writing import plan_cache

__all__ = [
    "CODECS",
    "CachedTeacher",
    "Check",
    "Codec",
    "Dense8",
    "Dense16",
    "Dense32",
    "Features16",
    "Field",
    "Int8",
    "Meta",
    "Sampled",
    "Shard",
    "TeacherCache",
    "TopK",
    "contents_of",
    "get_codec",
    "import_topk",
    "plan_cache",
    "write_shard",
]
