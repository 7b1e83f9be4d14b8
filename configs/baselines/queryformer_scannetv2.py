# Table 1, QueryFormer-style on ScanNetv2: no public code exists; queries of far superpoints (baselines.md section 3.5).
_base_ = './spformer_scannetv2.py'

model = dict(decoder=dict(start=dict(_delete_=True, type='FarthestPointQueries', num_queries=400)))
