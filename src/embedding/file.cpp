// Embeddings that `idistill_mpi embed`, or anyone, wrote into a file.

#include <ATen/ATen.h>

#include <map>
#include <utility>

#include "idistill/data/embedding_file.hpp"
#include "idistill/embedding/embedding.hpp"
#include "idistill/embedding/parts.hpp"

namespace idistill::embedding {

Member file_member();  // listed in members.cpp

namespace {

class FileEmbedding final : public Embedding {
public:
    FileEmbedding(std::string path, const EmbeddingFiles& files)
        : path_(std::move(path)), facts_(files.by_path.at(path_)) {}

    [[nodiscard]] std::string name() const override { return path_; }
    void plan(model::Planner& planner) override {
        planner.plan.needs.push_back(
            {.what = "rows of " + path_, .per_rank = 8.0 * static_cast<double>(planner.usable.pool_rows)});
    }
    [[nodiscard]] std::int64_t width() const override { return facts_.width; }
    [[nodiscard]] double flops(std::int64_t /*tokens*/, std::int64_t /*labels*/) const override { return 0.0; }
    [[nodiscard]] plan::PassBytes pass_bytes(const plan::Batch& /*largest*/) const override { return {}; }
    [[nodiscard]] double unit_bytes(const plan::Batch& largest) const override {  // as read, and as a tensor
        return 2.0 * model::fp32_bytes * static_cast<double>(facts_.width) * static_cast<double>(largest.rows);
    }
    [[nodiscard]] bool reads_weights() const override { return false; }
    void load(const model::Decoder& /*decoder*/) override {}
    void match(comm::Communicator& comm, const data::Corpus& corpus, std::span<const std::uint8_t> wanted) override {
        files_.insert_or_assign(&corpus, data::EmbeddingFile(path_)).first->second.match(comm, corpus, wanted);
    }
    [[nodiscard]] std::string identity() const override { return "file " + facts_.fingerprint; }
    [[nodiscard]] torch::Tensor rows(const data::SampleSet& set) const override {
        auto values = files_.at(&set.corpus()).read(set.rows());
        return at::from_blob(values.data(), {std::ssize(set.rows()), facts_.width},
                             at::TensorOptions().dtype(torch::kFloat32))
            .clone();
    }

private:
    std::string path_;
    EmbeddingFiles::Facts facts_;
    std::map<const data::Corpus*, data::EmbeddingFile> files_;  ///< by the corpus that each is matched with
};

}  // namespace

Member file_member() {
    return {.form = "FILE.h5",
            .form_says = " (a file that ends in .h5)",
            .example = "file.h5",
            .help = "from idistill_mpi embed, which has one embedding more",
            .is_named_by = [](const std::string& text) { return text.ends_with(".h5") || text.ends_with(".hdf5"); },
            .make = [](const std::string& text, const options::Values& values) -> std::unique_ptr<Embedding> {
                return std::make_unique<FileEmbedding>(text, values.of<EmbeddingFiles>());
            },
            .of_embed = false,
            .of_file = true};
}

}  // namespace idistill::embedding
