#include "idistill/influence/gradient/hessian.hpp"

#include <ATen/ATen.h>

#include "idistill/influence/gradient/passes.hpp"

namespace idistill::influence {

using torch::Tensor;

void add_hessian_products(const model::Decoder& decoder, const model::ChosenLayers& chosen,
                          const data::Samples& samples, const Tensor& scale, const std::vector<Tensor>& v,
                          std::int64_t batch_tokens, std::vector<Tensor>& sums) {
    const auto scale_here = scale.to(decoder.options());
    for (const auto& members : micro_batches(samples, batch_tokens)) {
        const auto batch = model::pack_with_labels(decoder, samples, members);
        const auto index = at::tensor(members, at::TensorOptions().dtype(torch::kInt64)).to(scale_here.device());
        model::loss_gradient_tangents(
            decoder, batch, chosen, v,
            [&](const model::TangentTap& tap) {
                sums[tap.layer].addmm_(tap.output_gradient_tangent.t(), tap.input);
                sums[tap.layer].addmm_(tap.output_gradient.t(), tap.input_tangent);
            },
            scale_here.index_select(0, index));
    }
}

}  // namespace idistill::influence
