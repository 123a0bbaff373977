// The list of embeddings: a line each, and one that declares it.

#include "idistill/embedding/members.hpp"

#include "idistill/data/embedding_file.hpp"
#include "idistill/embedding/embedding.hpp"
#include "idistill/embedding/parts.hpp"

namespace idistill::embedding {

Member jvp_member();
Member hidden_member();
Member gradient_tail_member();
Member gradient_member();
Member file_member();

std::span<const Member> members() {
    static const std::vector<Member> all{jvp_member(), hidden_member(), gradient_tail_member(), gradient_member(),
                                         file_member()};
    return all;
}

const Member* member_named(const std::string& text) {
    for (const auto& member : members())
        if (member.named_by(text)) return &member;
    return nullptr;
}

std::vector<std::string> forms(bool Member::*of_kind) {
    std::vector<std::string> all;
    for (const auto& member : members())
        if (member.*of_kind) all.push_back(member.form + member.form_says);
    return all;
}

std::unique_ptr<Embedding> make_embedding(const std::string& text, const options::Values& values) {
    if (const auto* member = member_named(text)) return member->make(text, values);
    throw unknown_embedding(text);
}

void look_at_files(options::Values& values) {
    for (const auto& name : embedding_names(values.of<EmbeddingSettings>())) {
        if (!member_named(name)->of_file) continue;
        const data::EmbeddingFile file(name);
        values.of<EmbeddingFiles>().by_path[name] = {file.width(), file.fingerprint()};
    }
}

}  // namespace idistill::embedding
