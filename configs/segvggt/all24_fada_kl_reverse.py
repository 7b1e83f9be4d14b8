# Beside Table 3: KL(attention || visibility) in place of Jensen-Shannon (ours; baselines.md section 4.1).
_base_ = './all24_fada.py'

model = dict(alignment=dict(_delete_=True, type='KullbackLeibler', direction='reverse'))
